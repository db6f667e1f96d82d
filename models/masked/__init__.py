"""Masked-image objectives on a shared encoder, one small file each."""
