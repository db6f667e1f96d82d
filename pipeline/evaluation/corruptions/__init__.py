"""ImageNet-C's and CIFAR-10-C's corruptions (Hendrycks and Dietterich 2019), made on the fly: one family, one file."""
