"""Files of PyTorch's own, of nets with the weights of the rule: python torch_exports.py FOLDER NAME ...; needs PyTorch, not Paddle.

Of each net: NAME.npy, its embeddings of the two images of known_backbones.json; NAME_new.pt, NAME_old.pt (the format of before
PyTorch 1.6), NAME_checkpoint.pt (as arcface_torch's, parallel); and but for vision transformers NAME_torchscript.onnx, by the
exporter that follows a run, and NAME_dynamo.onnx with NAME_dynamo.onnx.data, by the one that follows the program.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch_nets import known_embeddings, ruled_net


def write(folder: Path, name: str) -> None:
    net = ruled_net(name)
    np.save(folder / f"{name}.npy", known_embeddings(net))
    torch.save(net.state_dict(), folder / f"{name}_new.pt")
    torch.save(net.state_dict(), folder / f"{name}_old.pt", _use_new_zipfile_serialization=False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9)
    checkpoint = {
        "epoch": 1,
        "state_dict_backbone": torch.nn.DataParallel(net).state_dict(),
        "state_dict_softmax_fc": torch.nn.Linear(512, 9).state_dict(),
        "state_optimizer": optimizer.state_dict(),
        "state_lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
    }
    torch.save(checkpoint, folder / f"{name}_checkpoint.pt")
    if name.startswith("vit"):
        return
    images = torch.zeros(2, 3, 112, 112)
    how = {"input_names": ["images"], "output_names": ["embeddings"], "opset_version": 18}
    script, dynamo = (str(folder / f"{name}_{exporter}.onnx") for exporter in ("torchscript", "dynamo"))
    torch.onnx.export(net, (images,), script, dynamo=False, dynamic_axes={"images": {0: "N"}}, **how)
    torch.onnx.export(net, (images,), dynamo, dynamo=True, dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False, **how)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[2:]:
        write(Path(sys.argv[1]), name)
