"""The stages of the doctor, one file each, found by the file's name.

May import `pipeline` and every other room of `models`. Read `machine.py` first.
"""
