"""Networks: functions from latents to images and from images to logits, nothing else.

They know neither training nor disks. Imports go down only: to
ordering, morphology, ops, config, and rng.
"""
