"""InvPT (Ye, Xu, ECCV 2022): its decoder and the blocks of it."""
