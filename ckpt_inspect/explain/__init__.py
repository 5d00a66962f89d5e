"""Facts to answers: every answer carries the arithmetic and the evidence it rests on."""
