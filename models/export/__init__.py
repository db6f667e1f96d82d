"""A trained run in other libraries' forms, one small file each."""
