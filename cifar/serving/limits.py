"""Limits of the demo; the number of pixels is limited where images are read."""

MAX_BYTES = 10 * 2**20  # of an uploaded file
MAX_WAITING = 100  # requests; further ones are refused with 503
CONCURRENCY = 1  # requests computed at a time; a network already uses all cores
KEPT_SECONDS = 600  # after which uploads are deleted, checked every minute
SESSIONS = 100  # whose state Gradio keeps: every request from a program is one
