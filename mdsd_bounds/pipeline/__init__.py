"""Everything between a dump and a table: the loop, what it computes, its engines, part files, tables."""
