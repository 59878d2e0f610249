from ctkd_mm.cli_runs import extract_student

if __name__ == '__main__':
    extract_student()
