from ctkd_mm.cli import coco_subset

if __name__ == '__main__':
    coco_subset()
