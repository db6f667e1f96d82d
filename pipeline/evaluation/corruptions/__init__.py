"""ImageNet-C's and CIFAR-10-C's corruptions (Hendrycks and Dietterich 2019), made on the fly; each family is one file.

    corrupt(image, "fog", severity=3, image_id=7)     # u8 [H, W, 3] -> u8 [H, W, 3]

Read `corrupt.py` first.
"""
