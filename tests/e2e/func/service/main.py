"""The program that func's builders start: the middleware around the function."""

from func_python.http import serve

from function import new

if __name__ == "__main__":
    serve(new)
