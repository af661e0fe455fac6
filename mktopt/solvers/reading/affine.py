"""Affine forms in the parameters of a model: the numbers of a program whose parameters stay symbols.

    f(θ) = constant + Σ_k factor_k θ_k            `Form`, one number
    F(θ) = base + M θ                             `Forms`, an array of them

θ holds the values of every mutable Param that is met, component after component, each in the sequence of its index
(`Parameters`). Sums of forms and their multiples by numbers are forms; a product of two is none, and `NotAffine` says
which parameters would have to be multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from pyomo.common.numeric_types import native_numeric_types
from pyomo.core.expr.numeric_expr import (
    DivisionExpression,
    LinearExpression,
    MonomialTermExpression,
    NegationExpression,
    NPV_DivisionExpression,
    NPV_MaxExpression,
    NPV_MinExpression,
    NPV_NegationExpression,
    NPV_ProductExpression,
    NPV_SumExpression,
    ProductExpression,
    SumExpression,
)
from pyomo.core.expr.visitor import identify_mutable_parameters

from mktopt.errors import FormulationError

Array = np.ndarray

_SUMS = frozenset({SumExpression, LinearExpression, NPV_SumExpression})
_NEGATIONS = frozenset({NegationExpression, NPV_NegationExpression})
_PRODUCTS = frozenset({ProductExpression, MonomialTermExpression, NPV_ProductExpression})
_DIVISIONS = frozenset({DivisionExpression, NPV_DivisionExpression})
_EXTREMES = {NPV_MaxExpression: max, NPV_MinExpression: min}


class NotAffine(FormulationError):
    """Parameters enter otherwise than affinely; `places`: theirs in θ; `part`: the expression, where it is known."""

    def __init__(self, places: Iterable[int], part: Any = None) -> None:
        super().__init__("parameters enter otherwise than affinely")
        self.places = sorted(set(places))
        self.part = part


class Form:
    """constant + Σ factor · θ[place], with the arithmetic that numbers have; never changed once made."""

    __slots__ = ("constant", "terms")

    def __init__(self, constant: float, terms: dict[int, float]) -> None:
        self.constant = constant
        self.terms = terms

    def __mul__(self, other: Any) -> Form:
        if other.__class__ is Form:
            raise NotAffine((*self.terms, *other.terms))
        return Form(self.constant * other, {place: factor * other for place, factor in self.terms.items()})

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Form:
        if other.__class__ is not Form:
            return Form(self.constant + other, self.terms)
        terms = dict(self.terms)
        for place, factor in other.terms.items():
            terms[place] = terms.get(place, 0.0) + factor
        return Form(self.constant + other.constant, terms)

    __radd__ = __add__

    def __neg__(self) -> Form:
        return self * -1.0

    def __truediv__(self, other: Any) -> Form:
        if other.__class__ is Form:
            raise NotAffine((*self.terms, *other.terms))
        return Form(self.constant / other, {place: factor / other for place, factor in self.terms.items()})

    def __rtruediv__(self, other: Any) -> Form:
        raise NotAffine(self.terms)

    def __pow__(self, other: Any) -> Form:
        raise NotAffine(self.terms)


class Parameters:
    """The mutable Params that expressions have been found to hold, their places in θ and their values.

    names: of the components, in the sequence in which they were met; keys, start: of each, its keys and where its
    values begin in θ.
    """

    def __init__(self) -> None:
        self.keys: dict[str, list[Any]] = {}
        self.start: dict[str, int] = {}
        self._values: list[float] = []
        self._forms: dict[int, Form] = {}
        self._components: dict[str, Any] = {}

    @property
    def theta(self) -> Array:
        """The values (K,); NaN for an entry that has none."""
        return np.array(self._values, dtype=float)

    def names(self, places: Iterable[int]) -> list[str]:
        """The names of the parameters at these places, as Pyomo writes them."""
        starts, components = list(self.start.values()), list(self.start)
        found = []
        for place in places:
            component = components[int(np.searchsorted(starts, place, side="right")) - 1]
            key = self.keys[component][place - self.start[component]]
            parts = key if isinstance(key, tuple) else (key,)
            found.append(component if key is None else f"{component}[{','.join(str(part) for part in parts)}]")
        return found

    def form(self, parameter: Any) -> Form:
        """The form of a mutable Param's entry; its whole component enters θ when it is first met."""
        known = self._forms.get(id(parameter))
        if known is not None:
            return known
        component = parameter.parent_component()
        name = component.name
        if self._components.setdefault(name, component) is not component:
            raise FormulationError(f"two Params of different models are both named '{name}'; rename one")
        self.start[name] = len(self._values)
        self.keys[name] = []
        for key, entry in component.items():
            self._forms[id(entry)] = Form(0.0, {len(self._values): 1.0})
            self.keys[name].append(key)
            self._values.append(_value(entry))
        return self._forms[id(parameter)]

    def number(self, term: Any) -> Any:
        """The value of a term without free variables: a float, or a `Form` where a mutable Param enters.

        Raises NotAffine, and FormulationError for what has no value.
        """
        known = self._forms.get(id(term))
        if known is not None:
            return known
        if term.__class__ is Form:
            return term
        total: Any = 0.0
        rest: list[tuple[float, Any]] = [(1.0, term)]
        while rest:
            scale, node = rest.pop()
            kind = node.__class__
            if kind in native_numeric_types:
                total = total + scale * node
            elif kind in _SUMS:
                rest.extend([(scale, part) for part in node.args])
            elif kind in _NEGATIONS:
                rest.append((-scale, node.args[0]))
            elif kind in _PRODUCTS and node.args[0].__class__ in native_numeric_types:
                rest.append((scale * node.args[0], node.args[1]))
            else:
                total = total + scale * self._value(node, kind)
        return total

    def _value(self, node: Any, kind: type) -> Any:
        """A node that is no sum and no multiple."""
        if node.is_parameter_type():
            return self.form(node) if node.parent_component().mutable else plain(node)
        if kind in _PRODUCTS:
            return self._tried(node, lambda a, b: a * b)
        if kind in _DIVISIONS:
            return self._tried(node, divided)
        if kind in _EXTREMES:
            return self._extreme(node, _EXTREMES[kind])
        if node.is_named_expression_type() and node.args[0] is not None:
            return self.number(node.args[0])
        self.refuse_inside(node)
        return plain(node)

    def _tried(self, node: Any, operation: Callable[[Any, Any], Any]) -> Any:
        left, right = (self.number(part) for part in node.args)
        try:
            return operation(left, right)
        except NotAffine as error:
            raise NotAffine(error.places, node) from None

    def _extreme(self, node: Any, extreme: Callable[..., float]) -> Any:
        """max (min) of its arguments, as Pyomo writes a bound beside a domain that bounds on the same side.

        One form among numbers is the result itself where the domain of its Params keeps it above all of them.
        """
        parts = [self.number(part) for part in node.args]
        numbers = [part for part in parts if part.__class__ is not Form]
        if len(numbers) == len(parts):
            return extreme(numbers)
        forms = [part for part in parts if part.__class__ is Form]
        if len(forms) > 1 or self._least(forms[0]) < max(numbers):
            raise NotAffine([place for form in forms for place in form.terms], node)
        return forms[0] if extreme is max else min(numbers)

    def _least(self, form: Form) -> float:
        """The least value that the domains of its Params allow a form."""
        total = form.constant
        starts, components = list(self.start.values()), list(self.start)
        for place, factor in form.terms.items():
            component = self._components[components[int(np.searchsorted(starts, place, side="right")) - 1]]
            low = component.domain.bounds()[0]
            if factor < 0.0 or low is None:
                return -np.inf
            total += factor * low
        return total

    def refuse_inside(self, expression: Any) -> None:
        """Raises NotAffine where an expression holds a mutable Param."""
        found = [self.form(parameter) for parameter in identify_mutable_parameters(expression)]
        if found:
            raise NotAffine([place for form in found for place in form.terms], expression)


def plain(term: Any) -> float:
    """The value of a term without free variables; raises FormulationError where there is none."""
    if term.__class__ in native_numeric_types:
        return float(term)
    try:
        result = term(exception=True)
        if result is not None:
            return float(result)
    except ArithmeticError as error:
        raise FormulationError(f"'{term}' cannot be evaluated ({error})") from error
    except (ValueError, TypeError, AttributeError) as error:
        if "domain" in str(error) or isinstance(error, TypeError):
            raise FormulationError(f"'{term}' is no real number ({error})") from error
    raise FormulationError(f"'{term}' has no value; give it one before solving")


def divided(left: Any, right: Any) -> Any:
    """left / right of numbers or forms; raises FormulationError for a division by zero."""
    try:
        return left / right
    except ZeroDivisionError as error:
        raise FormulationError("it divides by zero") from error


def _value(entry: Any) -> float:
    value = entry(exception=False)
    try:
        return np.nan if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise FormulationError(f"'{entry.name}' has the value {value!r}, which is no number") from error


class Forms:
    """Many forms: base (N,) and M csr (N, K), which is None where there are no parameters."""

    __slots__ = ("M", "base")

    def __init__(self, base: Array, M: Any = None) -> None:
        self.base = base
        self.M = M

    def __len__(self) -> int:
        return len(self.base)

    def take(self, where: Array) -> Forms:
        """Those at the positions, or under the mask, `where`."""
        return Forms(self.base[where], None if self.M is None else self.M[where])

    def times(self, factor: Array) -> Forms:
        """factor · F, factor (N,)."""
        if self.M is None:
            return Forms(self.base * factor)
        import scipy.sparse as sp

        return Forms(self.base * factor, sp.csr_array(sp.diags_array(np.asarray(factor, dtype=float)) @ self.M))

    def plus(self, other: Forms) -> Forms:
        """Their sum, entry by entry."""
        return Forms(self.base + other.base, None if self.M is None else self.M + other.M)

    def minus(self, other: Forms) -> Forms:
        """Their difference; an infinite entry stays what it is."""
        base = self.base - other.base
        if self.M is None:
            return Forms(base)
        import scipy.sparse as sp

        M = sp.csr_array(self.M - sp.diags_array(np.isfinite(self.base).astype(float)) @ other.M)
        return Forms(base, M)

    def sums(self, at: Array, count: int) -> Forms:
        """(count,) sums: entry i of F goes into sum at[i]."""
        base = np.bincount(at, self.base, count)
        if self.M is None:
            return Forms(base)
        import scipy.sparse as sp

        pick = sp.csr_array((np.ones(len(at)), (at, np.arange(len(at)))), shape=(count, len(at)))
        return Forms(base, sp.csr_array(pick @ self.M))

    @property
    def moving(self) -> Array:
        """Whether a parameter enters (N,)."""
        if self.M is None:
            return np.zeros(len(self.base), dtype=bool)
        self.M.eliminate_zeros()
        return np.diff(self.M.indptr) > 0

    @property
    def there(self) -> Array:
        """Whether an entry is more than a zero for all values of the parameters (N,)."""
        return (self.base != 0.0) | self.moving

    def at(self, theta: Array) -> Array:
        """The values (N,)."""
        return self.base if self.M is None else np.asarray(self.base + self.M @ theta)


def joined(one: Forms, other: Forms) -> Forms:
    """The forms of one, then those of the other."""
    base = np.concatenate([one.base, other.base])
    if one.M is None:
        return Forms(base)
    import scipy.sparse as sp

    return Forms(base, sp.vstack([one.M, other.M], format="csr"))


def forms(items: Sequence[Any], count: int | None) -> Forms:
    """Floats and `Form`s as an array; count: the number K of parameters, None where there can be none."""
    if count is None:
        return Forms(np.array(items, dtype=float))
    import scipy.sparse as sp

    base: list[float] = []
    places: list[int] = []
    factors: list[float] = []
    starts = [0]
    for item in items:
        if item.__class__ is Form:
            base.append(item.constant)
            places.extend(item.terms)
            factors.extend(item.terms.values())
        else:
            base.append(item)
        starts.append(len(places))
    entries: Any = (np.array(factors, dtype=float), np.array(places, dtype=np.int64), np.array(starts))
    M = sp.csr_array(entries, shape=(len(base), count))
    return Forms(np.array(base, dtype=float), M)
