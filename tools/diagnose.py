from ctkd_mm.cli_runs import diagnose

if __name__ == '__main__':
    diagnose()
