from ctkd_mm.cli import make_demo_data

if __name__ == '__main__':
    make_demo_data()
