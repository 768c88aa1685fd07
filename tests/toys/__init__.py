"""The toy tokenizers and the toy worlds of the tests, each once; they prove that a newcomer is served without an edit."""
