"""Train with the ArcFace head in a loop of one's own; here on random vectors, a cluster for each of 1,000 classes.

    python examples/head_in_your_loop.py

prints the loss every 20 steps, which falls from about 48 to below 0.1: "step 0: loss 48.5068".
"""

from arcface import Margin, PartialFC  # isort: skip; before Paddle, which it sets up for this machine

import paddle

CLASSES, FEATURES, SIZE = 1000, 64, 128
paddle.seed(0)
clusters = paddle.randn([CLASSES, FEATURES])
backbone = paddle.nn.Linear(FEATURES, SIZE)  # anything that gives float32 embeddings [n, SIZE]
optimizer = paddle.optimizer.Momentum(0.1, parameters=backbone.parameters())
head = PartialFC(CLASSES, SIZE, Margin(m2=0.5), scale=64.0, sample_rate=0.5)

for step in range(101):
    labels = paddle.randint(0, CLASSES, [256])
    images = clusters[labels] + 0.1 * paddle.randn([256, FEATURES])
    loss = head.loss(backbone(images), labels, step)  # `step` decides which negatives are sampled
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    head.update(lr=0.1, momentum=0.9, weight_decay=2e-4)  # the class centres
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.4f}")
