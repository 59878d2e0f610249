from ctkd_mm.cli import plot_curriculum

if __name__ == '__main__':
    plot_curriculum()
