import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version():
    # Read, not imported: importing needs torch, which an isolated build lacks.
    text = (ROOT / 'ctkd_mm' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


def read_readme():
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='ctkd_mm',
    version=read_version(),
    description='Curriculum Temperature for Knowledge Distillation on MMRazor',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['ctkd_mm', 'ctkd_mm.*']),
    # OpenMMLab's place for configs and tools; in a checkout it holds links to them.
    package_data={
        '': ['*.pyi', 'py.typed', '*.html', '*.j2'],
        'ctkd_mm': ['.mim/*.yml', '.mim/configs/**/*', '.mim/tools/*'],
    },
    exclude_package_data={'': ['*.pyc']},
    entry_points={'console_scripts': ['ctkd_mm = ctkd_mm.cli:main']},
    python_requires='>=3.8',
    # Only what any environment for this code holds already: a plain install must
    # not rebuild, downgrade or overwrite an OpenMMLab stack that is in place.
    install_requires=['torch>=2.1', 'numpy', 'packaging'],
    extras_require={
        # One stack or the other: they own the same files. Read at run time too
        # (importlib.metadata), so the bounds stand only here.
        'openmmlab': [
            'mmengine>=0.10,<1',
            'mmcv>=2.1.0,<2.2',  # MMRazor 1.0.0 asserts <= 2.1.0, MMDetection < 2.2
            'mmdet>=3.3,<4',
            'mmrazor>=1.0,<2',
            'joblib',  # MMRazor imports it and does not declare it
            'setuptools<82',  # MMEngine needs pkg_resources for `mmdet::` bases
        ],
        'onedl': [  # the maintained forks; MMRazor has none
            'onedl-mmengine>=0.10.12,<1',
            'onedl-mmcv>=2.3.6,<3',
            'onedl-mmdetection>=3.5.1,<4',
            'mmrazor>=1.0,<2',
            'joblib',
        ],
        # mmpretrain imports torchvision and does not declare it: the one that was built
        # for the installed torch.
        'classification': ['mmpretrain>=1.2,<2', 'torchvision'],
        'eval': ['hotcoco>=1.3,<2'],  # COCO mAP in Rust; needs numpy and Python 3.10
        'onnx': ['onnx>=1.23,<2', 'onnxruntime>=1.32,<2'],
        'demo': ['scikit-learn', 'matplotlib'],
        'test': [
            'pytest',
            'pytest-xdist>=3.6',
            'ruff',
            'mypy',
            'tensorboard',
            'selenium',
        ],
        # Read without the package being imported: neither torch nor a stack is needed.
        'docs': [
            'mkdocs>=1.6,<2',
            'mkdocs-material>=9.8,<10',
            'mkdocstrings-python>=2,<3',
        ],
    },
)
