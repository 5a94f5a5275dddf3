// The Go compiler takes functions without a body, as conn.go declares them, only beside an assembly file.
