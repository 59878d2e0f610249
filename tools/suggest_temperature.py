from ctkd_mm.cli import suggest_temperature

if __name__ == '__main__':
    suggest_temperature()
