"""`potstill-server`: the processes one by one, and all of them embedded."""
