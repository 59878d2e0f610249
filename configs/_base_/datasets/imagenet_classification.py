_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32.py'
# A distiller, unlike a classifier, has no preprocessor of its own by default.
data_preprocessor = dict(type='ClsDataPreprocessor')
