"""``python -m ctkd_mm COMMAND``."""

from ctkd_mm.cli import main

if __name__ == '__main__':
    main()
