"""The Python rules that Bazel before 7 has built in, under the name of rules_python."""

py_binary = native.py_binary
py_library = native.py_library
py_test = native.py_test
