echo clean > cleaned
