from ctkd_mm.cli import demo

if __name__ == '__main__':
    demo()
