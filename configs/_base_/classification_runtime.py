_base_ = './runtime.py'
default_scope = 'mmpretrain'
default_hooks = dict(visualization=dict(type='mmpretrain.VisualizationHook'))
visualizer = dict(type='mmpretrain.UniversalVisualizer')
