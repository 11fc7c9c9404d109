/** A text area as tall as its text: a copy in the style sheet's ::after stretches it (a script would set styles inline). */

import { Input } from 'antd'
import type { ComponentProps } from 'react'

export function Grow(props: ComponentProps<typeof Input.TextArea>) {
  return (
    <div className="grow" data-text={`${props.value ?? ''} `}>
      <Input.TextArea {...props} autoSize={false} rows={1} />
    </div>
  )
}
