"""The float twin of a network: the same layout with float weights, ReLU and softmax attention."""

FLOAT_TWIN = {"model.bits": 32, "model.neuron": "relu", "model.attention": "softmax"}
