"""Operations that have native code. `ops.py` gives each as one function; nothing else here is needed from outside but
`build.using` and `build.available`.
"""
