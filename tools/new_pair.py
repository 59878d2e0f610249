from ctkd_mm.cli import new_pair

if __name__ == '__main__':
    new_pair()
