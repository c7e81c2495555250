"""Every key of an experiment with its default; the other configs change some of them.

A config is plain data. `python -m launch --config configs/NAME.py --config.model.bits=2` overrides any key; a
misspelt one is refused. Lengths of time are in epochs here and become steps once the data are known.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base_config() -> ConfigDict:
    """The defaults: the paper's network, size S, and the optimiser of its ImageNet recipe."""
    return ConfigDict(
        {
            "seed": 0,  # of everything random: weights, order, augmentation, drop path
            "start_from": "",  # workdir of a trained network that a new run takes its weights from
            "epochs": 300,
            "batch_size": 256,  # images per update
            "accumulate": 1,  # micro-batches that an update is cut into
            "task": {"name": "classification"},  # or a task of your own, MODULE:NAME of a TaskFactory
            "model": {
                "channels": (64, 128, 256, 360),  # C1..C4
                "depth": 8,  # transformer blocks, at least 2
                "num_heads": 8,
                "mlp_ratio": 4,
                "bits": 4,  # of the weights: 1..8, 32 for float
                # Pairs (regular expression, bits) of layers that differ: the first that matches the whole
                # path counts. Such as ((r"block.*/attn/[qk]_repconv/.*", 8), ("head", 32)).
                "bits_rules": (),
                "levels": 4,  # D, largest spike count
                "timesteps": 1,  # T
                "neuron": "ie_lif",  # ie_lif, i_lif, lif, quantized_relu; relu: none, float
                "decay": placeholder(float),  # of the membrane per time step; None: the neuron's own
                "reset": "soft",  # soft, hard
                "surrogate": "straight_through",  # or rectangular, triangle, sigmoid, arctan
                "rectify": "bn",  # bn (published code), norm
                "attention": "spiking",  # spiking, softmax
                "attention_scale": 0.25,
                "layer_scale_init": 1e-6,
                "drop_path": 0.0,
                "distillation_head": False,  # a second head for distill.kd, as DeiT; the mean of both answers
                "norm_group": 0,  # images that share batch-norm statistics; 0 for the whole batch
                "remat": "none",  # none; blocks: computed again in the backward pass, less memory, more time
                "exact_evaluation": True,  # equal to the deployed network bit for bit, and slower
                "dtype": "float32",  # operands of the products: float32, bfloat16, float64
            },
            "data": {
                # digits, folder, tfds, digits_dvs, motion_dvs, fake; or MODULE:NAME of a function
                "source": "digits",
                "path": "",  # folder: has train/CLASS/IMAGE.jpg and val/...; tfds: what `prepare` made
                "classes": (),  # of digits, those to tell apart; none for all
                "digits_images": 0,  # of digits, number of training images; 0 for all
                "digits_noise": 0.0,  # of digits, standard deviation on the pixels of 8x8, white = 1
                "corrupt_limit": 10,  # records that each process skips in a start before it gives up
                "image_size": (32, 32),  # height, width; multiples of 16
                "channels": 3,
                "mean": (0.485, 0.456, 0.406),  # of pixels in 0..1
                "std": (0.229, 0.224, 0.225),
                "events": False,  # streams of an event camera, shown in T frames of 2 channels
                "slicing": "count",  # of events into frames: equal count, equal time, or their sum T times
                "roll": 0,  # of events: largest shift in pixels
                "augmentation": "none",  # images: none, affine, crop_flip; events: none, roll, flip_roll
                "crop_area": (0.08, 1.0),  # of crop_flip: bounds of the share of the area
                "crop_aspect": (3 / 4, 4 / 3),  # of crop_flip: bounds of width / height
                "randaugment_magnitude": 0.0,  # mean strength of two operations, 0..10; 0 for none
                "randaugment_std": 0.5,  # standard deviation of the strength
                "erase_probability": 0.0,  # of noise in a random box
                "mixup": 0.0,  # alpha of its Beta distribution; 0 for none
                "cutmix": 0.0,  # the same; where both are on, each takes half of the batches
                "eval_crop_ratio": 1.0,  # image_size / the side that images are scaled to for evaluation
                "workers": 0,  # processes that read and augment; 0: a thread a core, -1: a process a core
                "fake_images": 1024,  # length of a fake source
                "fake_classes": 1000,
            },
            "optimizer": {
                "name": "lamb",  # lamb, adamw
                "learning_rate": 6e-4,  # per 256 images of batch_size; the peak is scaled linearly
                "warmup_epochs": 10.0,  # of a rate that rises; half of a run that has no more epochs
                "weight_decay": 0.05,  # on tensors of two or more axes
                "clip_norm": 1.0,  # global gradient norm; 0 for none
            },
            "loss": {"label_smoothing": 0.0},
            "parallel": {  # over all devices there are; changes no number but in its last digits
                "mode": "jit",  # jit: arrays cut over a mesh; pmap: the same program on each device
                "fsdp": 1,  # with jit, devices that each large tensor of the state is cut over
            },
            "distill": {
                # Workdir of a network that teaches, or caformer_s18:FILE of timm (also s36, m36, b36).
                "teacher": "",
                "dtype": "bfloat16",  # operands of the teacher's products
                "fgd": 0.0,  # weight of the distance between the Gram matrices of q, k and v
                "fgd_normalization": "frobenius",  # of a Gram matrix: frobenius, cosine
                "fgd_schedule": "constant",  # of that weight: constant, or cosine to 0 at the end
                "kd": 0.0,  # weight of the distance between the logits; 1 is DeiT's alpha 0.5
                "kd_target": "soft",  # soft: all probabilities of the teacher; hard: its first choice
                "temperature": 1.0,  # of the soft target
            },
            "profile": {"steps": ""},  # "10-15" writes a trace of these steps into the workdir
            "ema_decay": 0.0,  # moving average of all variables; 0 for none
            "eval": {
                "every_epochs": 1.0,
                "batch_size": 256,
                # Of test and train. The first decides which checkpoint is best and is logged as eval/METRIC,
                # another one as eval_SPLIT/METRIC.
                "splits": ("test",),
            },
            "log": {"every_steps": 1},
            "checkpoint": {
                "every_steps": 1000,  # besides one after every evaluation
                "keep_latest": 2,
                "keep_best": 1,
            },
        }
    )
