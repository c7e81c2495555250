"""The largest numbers that a configuration or a file may ask for, checked before memory or time is spent.

Nobody who means it comes near them. They stop a misprint or a hostile file, which would else take all memory
or never answer. What fits a machine is a question of its own (`memory`).
"""

LEVELS = 2**12  # D, spikes of a neuron in a step.
TIMESTEPS = 2**10  # T.
DEPTH = 2**8  # Blocks of a network.
CHANNELS = 2**16  # Of one layer, and of the images.
FACTOR = 2**10  # Heads, and what widens a layer.
SIDE = 2**14  # Pixels of an image.
OBJECTS = 2**10  # Of an image.
KERNEL = 2**8  # Taps along one side, strides and padding.
CLASSES = 2**20
SAMPLES = 2**16  # Anchors, regions or detections of an image.
STEPS_OF_A_PROGRAM = 2**14
ELEMENTS = 2**31  # Of one tensor.
BATCH = 2**24  # Images.
IMAGES = 2**32  # Of made-up data.
STEPS_OF_A_RUN = 2**26
WORKERS = 2**10  # Processes on one machine.
PROCESSES = 2**16  # Of one run.
OPERATIONS = 2**6  # Of RandAugment on one image.
RESIZE = 2**4  # Factor on the sides of an image.
SMALLEST_CROP = 2**-6  # Share of a side: an image is scaled up by its inverse.
