"""Sequential cross attention (Kim, Choi, Min, ICIP 2022): one file for each part of the paper's figure."""
