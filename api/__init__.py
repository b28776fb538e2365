"""HTTP: nothing but requests and answers."""
