from ctkd_mm.cli import extract_student

if __name__ == '__main__':
    extract_student()
