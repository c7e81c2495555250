"""What Mask R-CNN computes around its networks: boxes, anchors, assignment, proposals, RoIAlign, detections.

Pure functions of arrays of fixed shapes, for one image unless they say otherwise. What varies in number
(ground truths, proposals, detections) has slots and a mask of those in use; empty slots hold finite numbers.

Boxes are (x0, y0, x1, y1) in pixels, in continuous coordinates: pixel i covers [i, i + 1), and the width is
x1 - x0. Every function keeps the type of its boxes, which is float32 in a run: bfloat16 is off by pixels.
"""
