from ctkd_mm.cli import export_onnx

if __name__ == '__main__':
    export_onnx()
