from ctkd_mm.cli import check

if __name__ == '__main__':
    check()
