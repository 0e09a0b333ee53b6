"""Messages that protobuf builds at run time."""
