from ctkd_mm.cli import test

if __name__ == '__main__':
    test()
