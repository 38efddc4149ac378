"""Benchmarks that anyone can rerun: sets, methods (ours and peers), measures, tables, speed."""
