from ctkd_mm.cli import train

if __name__ == '__main__':
    train()
