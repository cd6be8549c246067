"""What a study's folder survives, tried and counted: `python tests/faults NAME`, see docs/reliability.md."""
