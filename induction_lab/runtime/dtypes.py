"""Number formats that models are loaded in, by the names that torch gives them. No torch is needed to list them."""

DTYPES = ("float32", "float64", "bfloat16", "float16")
EVERY_DTYPE = (*DTYPES, "auto")  # auto: as stored
