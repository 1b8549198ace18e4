"""How `minikontext.bench.reader`, the second judge, is trained, calibrated and validated."""
