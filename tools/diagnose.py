from ctkd_mm.cli import diagnose

if __name__ == '__main__':
    diagnose()
