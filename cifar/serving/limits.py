"""How much the demo takes; the number of pixels is limited where images are read."""

MOST_BYTES = 10 * 2**20  # of an uploaded file
MOST_WAITING = 100  # requests; further ones are refused with 503
AT_ONCE = 1  # requests that are computed; a network already takes all cores
KEPT_SECONDS = 600  # after which uploads are deleted, looked for each minute
SESSIONS = 100  # whose state Gradio keeps: every request from a program is one
