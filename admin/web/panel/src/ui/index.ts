// All parts of the user interface.
export { Badge, type Tone } from "./Badge";
export { Button, IconButton } from "./Button";
export { DataTable, Scroll, type Column } from "./DataTable";
export { ConfirmDialog, Dialog } from "./Dialog";
export { Empty, ErrorBox, Loading } from "./Empty";
export { Check, Choice, Field, Select, TextArea, type Option } from "./Field";
export { Icon, type IconName } from "./Icon";
export { Card, Page, Stat, Stats } from "./Page";
export { RangePicker, useRange, type Range } from "./RangePicker";
export { Tabs, type Tab } from "./Tabs";
export { toast, toastError, Toasts } from "./Toast";
export { Copy, copy, Json, Ms, Time } from "./Values";
