"""A run of the whole pipeline that has nothing to do, and what is shown of any when it is over."""
