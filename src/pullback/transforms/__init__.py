"""What turns a function into its derivatives. Each is a few lines over the traces of the core."""

from pullback.transforms.custom import checkpoint, custom
from pullback.transforms.jacobian import hessian, hvp, jacobian
from pullback.transforms.modes import grad, jvp, value_and_grad, vjp
from pullback.transforms.record import record

__all__ = ["checkpoint", "custom", "grad", "hessian", "hvp", "jacobian", "jvp", "record", "value_and_grad", "vjp"]
