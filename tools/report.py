from ctkd_mm.cli_runs import report

if __name__ == '__main__':
    report()
