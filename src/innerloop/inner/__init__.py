"""The inner loop, and the parts that it is made of.

There is one inner loop in the package, :class:`innerloop.inner.loop.InnerLoop`. Every method runs it.
"""
